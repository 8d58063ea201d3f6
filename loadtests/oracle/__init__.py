"""Judge a recorded history: is there an order of the requests that explains every answer?"""
