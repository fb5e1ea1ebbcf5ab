"""Asking the recorded history: the index that answers, what can be asked, how it is shown."""
