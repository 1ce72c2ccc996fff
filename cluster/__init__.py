"""Where runs happen: the command line, composed configs, Ray."""
