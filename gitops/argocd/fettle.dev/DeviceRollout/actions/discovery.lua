-- What a person can say of a rollout. What would do nothing is disabled.
local status = obj.status or {}
local spec = obj.spec or {}
local waits = status.waiting ~= nil and status.waiting["for"] or ""
local over = status.phase == "Superseded" or status.phase == "RolledBack"
local paused = spec.paused == true
local back = status.rollback ~= nil
local failed = status.counts ~= nil and (status.counts.failed or 0) or 0
return {
  pause = { disabled = over or paused },
  resume = { disabled = over or not paused },
  approve = { disabled = not (waits == "Approval" or waits == "Step") },
  retry = { disabled = over or failed == 0 },
  ["abort-stop"] = { disabled = over or status.phase == "Complete" or spec.abort ~= nil },
  ["abort-rollback"] = { disabled = over or back or spec.abort == "Rollback" },
}
