"""The wire's transactions, in Lua for Redis 6.2 or later: whatever must happen together or not at all.

Lines and counters are those of `inference.wire.lines`, leases those of `inference.wire.lease`.
"""

from __future__ import annotations

from typing import Final

from inference.wire.lines import LINES

_PRELUDE: Final = (
    LINES
    + """
local function cost_of(terminal)
  local stats = cjson.decode(terminal).stats
  return INPUT_COST * stats.prompt_tokens + OUTPUT_COST * stats.completion_tokens
end
local function finish(id, terminal)
  local claim = redis.call('HMGET', claim_of(id), 'queue', 'tenant', 'request', 'weight')
  local queue, tenant, request, weight = claim[1], claim[2] or '', claim[3], claim[4]
  redis.call('XADD', stream_of(id), (redis.call('XLEN', stream_of(id)) + 1) .. '-0', 'event', terminal)
  redis.call('XADD', 'generation:finished', '*', 'id', id, 'request', request or '', 'terminal', terminal)
  if queue then
    leave(queue, tenant, id)
    if weight then charge(queue, tenant, (cost_of(terminal) - CLAIM_COST) / weight) end
    redis.call('ZREM', line_of(queue), id)
  end
  redis.call('DEL', claim_of(id))
end
"""
)

SUBMIT: Final = (
    _PRELUDE
    + """
-- KEYS: the request's queue, then every queue that counts towards its limit.
-- ARGV: id, request, limit, tenant. Returns {how many wait, how many of the tenant's own} of one that is refused.
local id, queue, tenant = ARGV[1], KEYS[1], ARGV[4]
if redis.call('EXISTS', claim_of(id), stream_of(id)) > 0 then return {} end
local total = 0
for i = 2, #KEYS do total = total + waiting(KEYS[i]) end
local free = tonumber(ARGV[3]) - total
local own = tenant == '' and 0 or redis.call('ZCARD', own_line(queue, tenant))
if free <= 0 or own >= free then return {total, own} end
redis.call('HSET', claim_of(id), 'queue', queue, 'tenant', tenant, 'request', ARGV[2], 'attempts', 0)
local last = redis.call('ZREVRANGE', line_of(queue), 0, 0, 'WITHSCORES')[2]
local score = math.max(UNCLAIMED, tonumber(last or 0)) + 1
redis.call('ZADD', line_of(queue), score, id)
enter(queue, tenant, id, score)
redis.call('PUBLISH', queue, id)
return {}
"""
)

STOP: Final = (
    _PRELUDE
    + """
-- ARGV: id, the terminal event for a request that nobody owns.
local id = ARGV[1]
local queue = redis.call('HGET', claim_of(id), 'queue')
if not queue then return 0 end
if not is_leased(queue, id) then finish(id, ARGV[2]) return 1 end
redis.call('HSET', claim_of(id), 'stop', 1)
redis.call('PUBLISH', 'generation:stops', id)
return 0
"""
)

FAIL: Final = (
    _PRELUDE
    + """
-- ARGV: id, the terminal event. A stream without a claim has ended already.
local id = ARGV[1]
local queue = redis.call('HGET', claim_of(id), 'queue')
if queue and is_leased(queue, id) then return 0 end
if not queue and redis.call('EXISTS', stream_of(id)) == 1 then return 0 end
finish(id, ARGV[2])
return 1
"""
)

PLACE: Final = (
    _PRELUDE
    + """
-- ARGV: id, then the classes in order of priority. Returns -1 when nobody waits under this id.
local id = ARGV[1]
local claim = redis.call('HMGET', claim_of(id), 'queue', 'tenant')
local queue, tenant = claim[1], claim[2]
if not queue or is_leased(queue, id) then return -1 end
local ahead = 0
for i = 2, #ARGV do
  local other = string.gsub(queue, '[^:]*$', '') .. ARGV[i]
  if other == queue then break end
  ahead = ahead + waiting(other)
end
local mine = tenant and redis.call('ZRANK', own_line(queue, tenant), id)
if not mine then return ahead + redis.call('ZRANK', line_of(queue), id) end

local own = seat(queue, tenant)
local counter = redis.call('ZSCORE', tenants_of(queue), own) + mine * CLAIM_COST
local seats = redis.call('ZRANGE', tenants_of(queue), 0, -1, 'WITHSCORES')
for i = 1, #seats, 2 do
  local turns = (counter - seats[i + 1]) / CLAIM_COST
  local before = math.ceil(turns)
  if turns == before and seats[i] < own then before = before + 1 end
  if seats[i] ~= own and before > 0 then
    ahead = ahead + math.min(before, redis.call('ZCARD', own_line(queue, tenant_of(seats[i]))))
  end
end
return ahead + mine + count(queue, '-inf', now())
"""
)

WAITING: Final = (
    _PRELUDE
    + """
-- KEYS: queues.
local total = 0
for i = 1, #KEYS do total = total + waiting(KEYS[i]) end
return total
"""
)

CLAIM: Final = (
    _PRELUDE
    + """
-- KEYS: when each fingerprint was last alive; the queues of chat and of evaluation.
-- ARGV: worker, fingerprint, lease in ms, token, strikes of a suspect, leases that an orphan waits, chats that
-- evaluation waits, then the capacity: total, chat, newcomers; then as JSON the weights of tenants, and who of them is
-- present; then how many more strikes a suspect has alone.
-- Returns {id, request, attempts, outcome, length, queue} of each: the outcome is '' to serve it, 'alone' to serve it
-- beside nothing else, or how it ends.
local worker, fingerprint, lease, token = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local patience, total = tonumber(ARGV[7]), tonumber(ARGV[8])
local chats, newcomers = tonumber(ARGV[9]), tonumber(ARGV[10])
local weights, chat, evaluation = cjson.decode(ARGV[11]), KEYS[2], KEYS[3]
local time, taken, present, num_present = now(), {}, {}, 0

local function note(tenant)
  if not present[tenant] then present[tenant], num_present = true, num_present + 1 end
end
for _, tenant in ipairs(cjson.decode(ARGV[12])) do note(tenant) end

local function take(queue, id, outcome)
  local claim = claim_of(id)
  local tenant = redis.call('HGET', claim, 'tenant') or ''
  leave(queue, tenant, id)
  local weight = weights[tenant] or weights[string.match(tenant, '^[^:]*')] or 1
  if redis.call('HSETNX', claim, 'weight', weight) == 1 then charge(queue, tenant, CLAIM_COST / weight) end
  redis.call('HSET', claim, 'token', token, 'worker', worker)
  redis.call('HINCRBY', claim, 'strikes', 1)
  local attempts, request = redis.call('HINCRBY', claim, 'attempts', 1), redis.call('HGET', claim, 'request')
  begin_lease(line_of(queue), id, lease)
  taken[#taken + 1] = {id, request, attempts, outcome, redis.call('XLEN', stream_of(id)), queue}
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
  return taken
end

local function next_of(queue)
  if expired[queue][1] then return expired[queue][1] end
  local first = redis.call('ZRANGE', tenants_of(queue), 0, 0)[1]
  if first then return first_of(queue, tenant_of(first)) end
  return redis.call('ZRANGEBYSCORE', line_of(queue), '(' .. UNCLAIMED, '+inf', 'LIMIT', 0, 1)[1]
end

local passed = tonumber(redis.call('HGET', turns_of(chat), 'passed') or 0)
for turn = 1, total + chats do
  local answer, other = next_of(chat), next_of(evaluation)
  local queue = answer and chat or evaluation
  if turn <= total and other and passed >= patience then queue = evaluation end
  if not (answer or other) or (queue == evaluation and turn > total) then break end
  take(queue, queue == chat and answer or other, '')
  if expired[queue][1] then table.remove(expired[queue], 1) end
  passed = queue == chat and other and passed + 1 or 0
end

local function admit(tenant, id)
  if newcomers == 0 or present[tenant] then return end
  take(chat, id, '')
  newcomers = newcomers - 1
end
if newcomers > 0 then
  for _, id in ipairs(expired[chat]) do admit(redis.call('HGET', claim_of(id), 'tenant') or '', id) end
  for _, seat in ipairs(redis.call('ZRANGE', tenants_of(chat), 0, num_present + newcomers)) do
    admit(tenant_of(seat), first_of(chat, tenant_of(seat)))
  end
end
if #taken > 0 then redis.call('HSET', turns_of(chat), 'passed', passed) remember(chat) end
return taken
"""
)

RENEW: Final = (
    _PRELUDE
    + """
-- ARGV: of each claim its id, token and lease in ms. Returns a receipt of each.
local receipts = {}
for i = 1, #ARGV, 3 do
  local claim = redis.call('HMGET', claim_of(ARGV[i]), 'token', 'queue', 'stop')
  if claim[1] == ARGV[i + 1] then
    begin_lease(line_of(claim[2]), ARGV[i], ARGV[i + 2])
    receipts[#receipts + 1] = {1, claim[3] and 1 or 0, redis.call('XLEN', stream_of(ARGV[i]))}
  else receipts[#receipts + 1] = {0, 0, 0} end
end
return receipts
"""
)

APPEND: Final = (
    _PRELUDE
    + """
-- ARGV: of each write its id, token, length expected (-1: any), fingerprint to record ('' for none), terminal event or
-- '', and how many events, then these. Returns of each a receipt, or an error that stands in the way of it alone.
-- Entries are numbered from 1, so one that is there already is known by its number. An answer that grows has no
-- strikes: what it makes of its worker, it did not make of it at once.
local function append(id, token, after, fingerprint, terminal, first, last)
  local claim = redis.call('HMGET', claim_of(id), 'token', 'stop', 'fingerprint', 'strikes')
  if claim[1] ~= token then return {0, 0, 0} end
  local length = redis.call('XLEN', stream_of(id))
  if after < 0 then after = length end
  if after > length then return {1, claim[2] and 1 or 0, length} end
  local grown = length
  for i = first, last do
    local number = after + i - first + 1
    if number > length then
      redis.call('XADD', stream_of(id), number .. '-0', 'event', ARGV[i])
      grown = number
    end
  end
  if fingerprint ~= '' and not claim[3] then redis.call('HSET', claim_of(id), 'fingerprint', fingerprint) end
  if fingerprint ~= '' and grown > length and claim[4] ~= '0' then redis.call('HSET', claim_of(id), 'strikes', 0) end
  if terminal == '' then return {1, claim[2] and 1 or 0, grown} end
  finish(id, terminal)
  return {1, 0, grown + 1}
end

local receipts, at = {}, 1
while at <= #ARGV do
  local last = at + 5 + ARGV[at + 5]
  local is_done, receipt = pcall(append, ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4],
    at + 6, last)
  receipts[#receipts + 1] = (is_done or type(receipt) == 'table') and receipt or {err = receipt}
  at = last + 1
end
return receipts
"""
)

RELEASE: Final = (
    _PRELUDE
    + """
-- ARGV: id, token, 1 if the attempt counts.
local id, claim = ARGV[1], claim_of(ARGV[1])
if not is_owner(claim, ARGV[2]) then return 0 end
local queue, strikes = unpack(redis.call('HMGET', claim, 'queue', 'strikes'))
redis.call('HDEL', claim, 'token', 'worker')
if ARGV[3] == '0' then
  redis.call('HINCRBY', claim, 'attempts', -1)
  redis.call('HSET', claim, 'strikes', math.max(0, tonumber(strikes or 0) - 1))
end
begin_lease(line_of(queue), id, 0)
redis.call('PUBLISH', queue, id)
return 1
"""
)

COMMIT: Final = """
-- KEYS: the list of what has ended. ARGV: the group that reads it, seconds until an answer's stream expires, then each
-- entry and the stream of its answer.
for i = 3, #ARGV, 2 do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
  redis.call('EXPIRE', ARGV[i + 1], ARGV[2])
end
return 1
"""

BEAT: Final = (
    _PRELUDE
    + """
-- KEYS: the heartbeat, the index of the base's workers, when each fingerprint was last alive.
-- ARGV: heartbeat, worker, fingerprint, time to live in ms.
local time = now()
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[4])
redis.call('ZADD', KEYS[2], time + ARGV[4], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', time)
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[3], time, ARGV[3]) end
return 1
"""
)
