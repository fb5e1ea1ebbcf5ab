"""Questions to the recorded history."""
