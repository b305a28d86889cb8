"""What may vary: spaces as YAML files, and the class that reads them."""
