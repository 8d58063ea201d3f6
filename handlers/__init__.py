"""What runs inside a TorchServe worker: the one package that ships in every archive."""
