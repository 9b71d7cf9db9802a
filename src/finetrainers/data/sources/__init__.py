"""Which items a data set has: one file for each layout. No media is opened here."""
