"""The HTTP API: decode, call one use case, render. No rule of the business lives here."""
