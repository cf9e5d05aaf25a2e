-- The devices that have failed by now get a fresh set of tries.
obj.spec.retryAt = os.date("!%Y-%m-%dT%H:%M:%SZ")
return obj
