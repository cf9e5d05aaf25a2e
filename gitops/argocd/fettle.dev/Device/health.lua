-- Ready is whether a device is accepted. One that is offline, or not current yet, is no fault of what Git declares.
local health = { status = "Progressing", message = "waiting for the controller" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" then
    health.message = condition.message ~= "" and condition.message or condition.reason
    if condition.status == "True" then
      health.status = "Healthy"
    elseif condition.reason == "NotApproved" then
      health.status = "Suspended"
    else
      health.status = "Degraded"
    end
  end
end
return health
