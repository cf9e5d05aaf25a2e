-- Nobody begins; what runs, finishes.
obj.spec.paused = true
return obj
