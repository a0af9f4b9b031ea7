"""Annotation as others publish it, one module per layout. Each reads its files into `Record`s."""
