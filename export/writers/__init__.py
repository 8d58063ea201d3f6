"""Write a lifted module as TorchScript, ONNX and a torch.export program."""
