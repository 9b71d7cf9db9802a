"""What is wrong upstream, one file for each: with a link to the issue, and a test that fails once it is mended."""
