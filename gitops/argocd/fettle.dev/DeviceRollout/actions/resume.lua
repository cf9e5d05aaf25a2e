-- It goes on where it was.
obj.spec.paused = false
return obj
