-- One that cannot be read or rendered stays so until somebody changes it, or what it refers to.
local health = { status = "Progressing", message = "waiting for the controller" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" then
    health.message = condition.message ~= "" and condition.message or condition.reason
    health.status = condition.status == "True" and "Healthy" or "Degraded"
  end
end
return health
