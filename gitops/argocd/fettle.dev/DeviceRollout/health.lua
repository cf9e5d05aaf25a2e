-- A rollout that another has superseded is history: nobody has to look at it.
local health = { status = "Progressing", message = "waiting for the controller" }
local status = obj.status
if status == nil then
  return health
end
health.message = status.message or status.phase or ""
if status.phase == "Superseded" or status.phase == "Complete" then
  health.status = "Healthy"
  return health
end
if status.observedGeneration ~= obj.metadata.generation then
  return health
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    health.status = "Degraded"
    return health
  end
end
if status.phase == "Empty" then
  health.status = "Healthy"
end
local waits = status.waiting ~= nil and status.waiting["for"] or ""
if status.phase == "Paused" or waits == "Approval" or waits == "Step" then
  health.status = "Suspended"
end
return health
