"""Who waits in Redis and who has been served, in Lua: the functions that the transactions of the wire share.

Beside each queue stands its line, a sorted set of the ids in it: a claimed one is scored with the moment its lease
ends, and one that was never claimed with a number beyond every moment, in order of arrival. So places and lengths
are ranks. Those never claimed stand in a line of their tenant as well, and the tenants that have one in a sorted set
by their counters, those that began to wait first before others of the same counter. The counters are those of
`inference.wire.fairness.VirtualCounters`; a claim is charged `CLAIM_COST` until the end tells what it has cost.
"""

from __future__ import annotations

from typing import Final

from inference.wire.contract import CLAIM_COST
from inference.wire.fairness import ENTRY_COST, INPUT_COST, OUTPUT_COST
from inference.wire.lease import LEASE

UNCLAIMED: Final = 10**14
"""What was never claimed is scored beyond this in its line, and every moment in milliseconds before it."""

LINES: Final = (
    f"local CLAIM_COST, ENTRY_COST = {CLAIM_COST}, {ENTRY_COST}\n"
    f"local INPUT_COST, OUTPUT_COST, UNCLAIMED = {INPUT_COST}, {OUTPUT_COST}, {UNCLAIMED}"
    + LEASE
    + """
local function stream_of(id) return 'generation:' .. id end
local function claim_of(id) return 'generation:' .. id .. ':claim' end

local function line_of(queue) return queue .. ':line' end
local function count(queue, low, high) return redis.call('ZCOUNT', line_of(queue), low, high) end
local function num_leased(queue) return count(queue, '(' .. string.format('%d', now()), '(' .. UNCLAIMED) end
local function waiting(queue) return redis.call('ZCARD', line_of(queue)) - num_leased(queue) end
local function is_leased(queue, id)
  local score = tonumber(redis.call('ZSCORE', line_of(queue), id))
  return score > now() and score < UNCLAIMED
end

local REMEMBERED_SECONDS = 3600
local function tenants_of(queue) return queue .. ':tenants' end
local function served_of(queue) return queue .. ':served' end
local function turns_of(queue) return queue .. ':turns' end
local function own_line(queue, tenant) return queue .. ':of:' .. tenant end
local function seat(queue, tenant)
  local first = redis.call('ZRANGE', own_line(queue, tenant), 0, 0, 'WITHSCORES')[2]
  return first and string.format('%016d:', first - UNCLAIMED) .. tenant
end
local function tenant_of(seat) return string.sub(seat, 18) end
local function first_of(queue, tenant) return redis.call('ZRANGE', own_line(queue, tenant), 0, 0)[1] end

local function floor_of(queue) return tonumber(redis.call('HGET', turns_of(queue), 'floor') or 0) end
local function served(queue, tenant)
  return tonumber(redis.call('ZSCORE', served_of(queue), tenant) or floor_of(queue))
end
local function lift(queue)
  local lowest = redis.call('ZRANGE', tenants_of(queue), 0, 0, 'WITHSCORES')[2]
  local last = redis.call('HGET', turns_of(queue), 'last')
  local floor = math.max(floor_of(queue), tonumber(lowest or (last and served(queue, last)) or 0))
  redis.call('HSET', turns_of(queue), 'floor', floor)
  redis.call('ZREMRANGEBYSCORE', served_of(queue), '-inf', floor)
end
local function remember(queue)
  redis.call('EXPIRE', served_of(queue), REMEMBERED_SECONDS)
  redis.call('EXPIRE', turns_of(queue), REMEMBERED_SECONDS)
end
local function charge(queue, tenant, service)
  local seat = seat(queue, tenant)
  if seat then redis.call('ZINCRBY', tenants_of(queue), service, seat)
  else redis.call('ZADD', served_of(queue), served(queue, tenant) + service, tenant) end
  remember(queue)
end
local function enter(queue, tenant, id, score)
  local is_first = not seat(queue, tenant)
  redis.call('ZADD', own_line(queue, tenant), score, id)
  if not is_first then return end
  lift(queue)
  local counter = math.max(served(queue, tenant), floor_of(queue) + ENTRY_COST)
  redis.call('ZADD', tenants_of(queue), counter, seat(queue, tenant))
  redis.call('ZREM', served_of(queue), tenant)
  remember(queue)
end
local function leave(queue, tenant, id)
  local before = seat(queue, tenant)
  if redis.call('ZREM', own_line(queue, tenant), id) == 0 then return end
  local counter, after = redis.call('ZSCORE', tenants_of(queue), before), seat(queue, tenant)
  redis.call('ZREM', tenants_of(queue), before)
  if after then redis.call('ZADD', tenants_of(queue), counter, after) return end
  redis.call('ZADD', served_of(queue), counter, tenant)
  redis.call('HSET', turns_of(queue), 'last', tenant)
  remember(queue)
end
"""
)
