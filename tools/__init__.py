"""Programs that write files of this repository; nothing of it is installed."""
