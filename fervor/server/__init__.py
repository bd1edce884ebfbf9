"""The HTTP server: limits, uploads, batches across clients, and the endpoints."""
