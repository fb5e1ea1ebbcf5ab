"""Talking with the agent in a guest (docs/guest-protocol.md), none of whose words is trusted."""
