-- A group that stalls is Degraded; one that waits for a person, or that somebody paused, is Suspended, and not a failure.
local health = { status = "Progressing", message = "waiting for the controller" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
health.message = status.message or status.phase or ""
local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end
if conditions.Stalled ~= nil and conditions.Stalled.status == "True" then
  health.status = "Degraded"
elseif conditions.Ready ~= nil and conditions.Ready.status == "True" then
  health.status = "Healthy"
elseif status.phase == "Paused" then
  health.status = "Suspended"
elseif conditions.Ready ~= nil and (conditions.Ready.reason == "WaitingForApproval" or conditions.Ready.reason == "StepEmpty") then
  health.status = "Suspended"
end
return health
