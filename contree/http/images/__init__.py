"""Images and files: listed, tagged, looked into, uploaded."""
