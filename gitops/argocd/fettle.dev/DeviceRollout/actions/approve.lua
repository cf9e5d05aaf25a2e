-- It goes past the step that it is at.
obj.spec.approvedStep = obj.status.step.number
return obj
