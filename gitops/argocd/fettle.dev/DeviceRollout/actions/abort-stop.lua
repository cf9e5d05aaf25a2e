-- It ends where it is.
obj.spec.abort = "Stop"
return obj
