"""Promises kept by the whole thing: real archives in a real TorchServe, asked over HTTP."""
