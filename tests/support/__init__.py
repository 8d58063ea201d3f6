"""What the tests share: doubles, servers, models, clients."""
