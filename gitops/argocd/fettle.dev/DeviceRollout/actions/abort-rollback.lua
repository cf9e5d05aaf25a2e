-- Each device that it has granted goes back to what it ran before.
obj.spec.abort = "Rollback"
return obj
