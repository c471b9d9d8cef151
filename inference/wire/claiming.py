"""Which requests a worker is given, in Lua: whose turn it is, and of whom it is the home.

The look for a request goes over the tenants in their order and over the first of each one's own line. What is meant for
another worker is left where it is: nobody is charged, and its tenant keeps its turn. It is anybody's once a worker that
asks had room for it for the bounded time, or once its home, whose rows are all taken, should have come to it since its
turn: when it was among the first, and others behind it were claimed instead.
"""

from __future__ import annotations

from typing import Final

from inference.wire.homes import HOMES
from inference.wire.lines import LINES

CLAIM: Final = (
    LINES
    + HOMES
    + """
-- KEYS: when each fingerprint was last alive; the queues of chat and of evaluation.
-- ARGV: worker, fingerprint, lease in ms, token, strikes of a suspect, leases that an orphan waits, chats that
-- evaluation waits, then the capacity: total, chat, newcomers; then as JSON the weights of tenants, and who of them is
-- present; then how many more strikes a suspect has alone; the base, the bounded time in ms, and for how many ms the
-- worker has had room; how many of its capacity could run at once.
-- Returns in how many ms the first that was left for its home is this worker's too, or -1, and {id, request, attempts,
-- outcome, length, queue, 1 if it was meant for another} of each: the outcome is '' to serve it, 'alone' to serve it
-- beside nothing else, or how it ends.
local worker, fingerprint, lease, token = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local patience_of_evaluation, total = tonumber(ARGV[7]), tonumber(ARGV[8])
local chats, newcomers = tonumber(ARGV[9]), tonumber(ARGV[10])
local weights, chat, evaluation = cjson.decode(ARGV[11]), KEYS[2], KEYS[3]
local time, taken, present, num_present = now(), {}, {}, 0
local router, patience, room = router_of(ARGV[14], worker, time), tonumber(ARGV[15]), tonumber(ARGV[16])
if router then set_room(router, worker, tonumber(ARGV[17])) end
local num_turns = total + chats + newcomers
local again, num_begun, is_open, is_stolen, is_spent, depth = -1, 0, {}, {}, {}, {}

local function note(tenant)
  if not present[tenant] then present[tenant], num_present = true, num_present + 1 end
end
for _, tenant in ipairs(cjson.decode(ARGV[12])) do note(tenant) end

local function take(queue, id, outcome)
  local claim = claim_of(id)
  local noted = redis.call('HMGET', claim, 'tenant', 'wants', 'conversation')
  local tenant = noted[1] or ''
  leave(queue, tenant, id)
  local weight = weights[tenant] or weights[string.match(tenant, '^[^:]*')] or 1
  if redis.call('HSETNX', claim, 'weight', weight) == 1 then charge(queue, tenant, CLAIM_COST / weight) end
  redis.call('HSET', claim, 'token', token, 'worker', worker)
  redis.call('HINCRBY', claim, 'strikes', 1)
  local attempts, request = redis.call('HINCRBY', claim, 'attempts', 1), redis.call('HGET', claim, 'request')
  begin_lease(line_of(queue), id, lease)
  taken[#taken + 1] = {id, request, attempts, outcome, redis.call('XLEN', stream_of(id)), queue,
    is_stolen[id] and 1 or 0}
  if router and (outcome == '' or outcome == 'alone') then
    num_begun, num_turns = num_begun + 1, num_turns - 1
    set_room(router, worker, router.rooms[worker] - 1)
    if noted[2] then settle(router, worker, noted[2], noted[3]) end
  end
  if queue == chat then note(tenant) end
end

local function outcome_of(id, deadline)
  local claim = redis.call('HMGET', claim_of(id), 'stop', 'strikes', 'fingerprint')
  local strikes = tonumber(claim[2] or 0) - tonumber(ARGV[5])
  if claim[1] then return 'stopped' end
  if strikes >= tonumber(ARGV[13]) then return 'worker_lost' end
  if not claim[3] or claim[3] == fingerprint then return strikes >= 0 and 'alone' or '' end
  local alive = redis.call('ZSCORE', KEYS[1], claim[3])
  if math.max(deadline, tonumber(alive or 0)) + tonumber(ARGV[6]) * lease > time then return 'other' end
  return 'fingerprint_changed'
end

local expired, suspects = {[chat] = {}, [evaluation] = {}}, {}
for _, queue in ipairs({chat, evaluation}) do
  local ended = redis.call('ZRANGEBYSCORE', line_of(queue), '-inf', time, 'WITHSCORES')
  for i = 1, #ended, 2 do
    local outcome = outcome_of(ended[i], tonumber(ended[i + 1]))
    if outcome == '' then table.insert(expired[queue], ended[i])
    elseif outcome == 'alone' then table.insert(suspects, {queue, ended[i]})
    elseif outcome ~= 'other' then take(queue, ended[i], outcome) end
  end
end
if suspects[1] and total + chats + newcomers > 0 then
  take(suspects[1][1], suspects[1][2], 'alone')
  if router then
    set_room(router, worker, 0)
    tell_room(router, worker)
  end
  return {again, taken}
end

-- Whether this worker may have it, at the head of its tenant's line or behind it. So many heads as this call may claim
-- lose their turn now, if they are another's.
local function look(id, is_head)
  local claim = redis.call('HMGET', claim_of(id), 'wants', 'continues', 'since', 'left')
  local homes = claim[1] and homes_for(router, claim[1], claim[2])
  if not homes or homes.has[worker] then return true end
  local since, share = math.max(tonumber(claim[3]), time - room), homes.held[worker] and SECOND_SHARE or 1
  local rest = since + share * patience - time
  if is_head and not claim[4] and num_turns > 0 then
    claim[4], num_turns = since, num_turns - 1
    redis.call('HSET', claim_of(id), 'left', since)
  end
  if is_head and claim[4] then rest = math.min(rest, claim[4] + share * turn_of(router, homes, patience) - time) end
  if rest > 0 then again = again < 0 and rest or math.min(again, rest) end
  is_stolen[id] = rest <= 0
  return rest <= 0
end
local function may_have(id, is_head)
  if not router then return true end
  if is_open[id] == nil then is_open[id] = look(id, is_head) end
  return is_open[id]
end

local function first_in(queue)
  local first = redis.call('ZRANGE', tenants_of(queue), 0, 0)[1]
  if first then return first_of(queue, tenant_of(first)) end
  return redis.call('ZRANGEBYSCORE', line_of(queue), '(' .. UNCLAIMED, '+inf', 'LIMIT', 0, 1)[1]
end
local function first_open_of(queue, seat, depth)
  if is_spent[queue .. seat] then return nil end
  for place, id in ipairs(redis.call('ZRANGE', own_line(queue, tenant_of(seat)), 0, depth - 1)) do
    if may_have(id, place == 1) then return id end
  end
  is_spent[queue .. seat] = true
end
local function next_of(queue)
  if expired[queue][1] then return expired[queue][1] end
  local seats = router and redis.call('ZRANGE', tenants_of(queue), 0, LOOKS - 1) or {}
  depth[queue] = depth[queue] or math.floor(LOOKS / math.max(1, #seats))
  for _, seat in ipairs(seats) do
    local id = first_open_of(queue, seat, depth[queue])
    if id then return id end
  end
  return not seats[1] and first_in(queue)
end

local passed = tonumber(redis.call('HGET', turns_of(chat), 'passed') or 0)
for turn = 1, total + chats do
  local others_wait = expired[evaluation][1] or first_in(evaluation)
  local queue, id = evaluation, nil
  if turn <= total and others_wait and passed >= patience_of_evaluation then id = next_of(evaluation) end
  if not id then queue, id = chat, next_of(chat) end
  if not id and turn <= total then queue, id = evaluation, next_of(evaluation) end
  if not id then break end
  take(queue, id, '')
  if expired[queue][1] == id then table.remove(expired[queue], 1) end
  passed = queue == chat and others_wait and passed + 1 or 0
end

local function admit(tenant, id, is_ours)
  if newcomers == 0 or present[tenant] or not (is_ours or may_have(id, true)) then return end
  take(chat, id, '')
  newcomers = newcomers - 1
end
if newcomers > 0 then
  for _, id in ipairs(expired[chat]) do admit(redis.call('HGET', claim_of(id), 'tenant') or '', id, true) end
  for _, seat in ipairs(redis.call('ZRANGE', tenants_of(chat), 0, router and LOOKS or num_present + newcomers)) do
    admit(tenant_of(seat), first_of(chat, tenant_of(seat)))
  end
end
if #taken > 0 then redis.call('HSET', turns_of(chat), 'passed', passed) remember(chat) end
if router then
  if num_begun > 0 then count_claims(router, worker, num_begun) end
  tell_room(router, worker)
end
return {math.ceil(again), taken}
"""
)
