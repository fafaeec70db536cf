"""The replay bank: recorded distributions of real models, and protocols that are scored on them."""
