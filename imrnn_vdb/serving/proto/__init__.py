"""The service's protocol: ``imrnn_vdb.proto``, and what ``make proto`` generates from it."""
