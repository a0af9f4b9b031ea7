"""Published annotation formats, one module per layout. Each module reads its files into `Record`s."""
