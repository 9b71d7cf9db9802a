"""What a run is measured by while it trains: samples, held-out loss, and which step is the best."""
