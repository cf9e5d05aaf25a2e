-- Being fetched is Progressing; what can never be had as it is declared is Degraded.
local health = { status = "Progressing", message = "waiting for a bridge" }
local status = obj.status
if status == nil or status.observedGeneration ~= obj.metadata.generation then
  return health
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Ready" then
    health.message = condition.message ~= "" and condition.message or condition.reason
    if condition.status == "True" then
      health.status = "Healthy"
    end
  end
end
for _, condition in ipairs(status.conditions or {}) do
  if condition.type == "Stalled" and condition.status == "True" then
    health.status = "Degraded"
  end
end
return health
