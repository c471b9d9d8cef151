"""The wire's transactions, in Lua for Redis 6.2 or later: whatever must happen together or not at all.

Lines and counters are those of `inference.wire.lines`, leases those of `inference.wire.lease`, and for whom a request
is meant is decided by `inference.wire.homes`. `inference.wire.claiming` holds the longest of them.
"""

from __future__ import annotations

from typing import Final

from inference.wire.homes import HOMES
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
    + HOMES
    + """
-- KEYS: the request's queue, then every queue that counts towards its limit.
-- ARGV: id, request, limit, tenant, base, the digests that it wants, the keys of its conversation and of the one that
-- it continues. Returns {how many wait, how many of the tenant's own} of one that is refused.
local id, queue, tenant = ARGV[1], KEYS[1], ARGV[4]
if redis.call('EXISTS', claim_of(id), stream_of(id)) > 0 then return {} end
local total = 0
for i = 2, #KEYS do total = total + waiting(KEYS[i]) end
local free = tonumber(ARGV[3]) - total
local own = tenant == '' and 0 or redis.call('ZCARD', own_line(queue, tenant))
if free <= 0 or own >= free then return {total, own} end
local time, wants, conversation, continues = now(), ARGV[6], ARGV[7], ARGV[8]
redis.call('HSET', claim_of(id), 'queue', queue, 'tenant', tenant, 'request', ARGV[2], 'attempts', 0)
if wants .. conversation ~= '' then
  redis.call('HSET', claim_of(id), 'since', time, 'wants', wants, 'conversation', conversation, 'continues', continues)
end
local last = redis.call('ZREVRANGE', line_of(queue), 0, 0, 'WITHSCORES')[2]
local score = math.max(UNCLAIMED, tonumber(last or 0)) + 1
redis.call('ZADD', line_of(queue), score, id)
enter(queue, tenant, id, score)
local router = wants .. continues ~= '' and router_of(ARGV[5], '', time)
local homes = router and homes_for(router, wants, continues)
local meant = homes and homes.names or {}
if homes and homes.relief then table.insert(meant, 1, homes.relief) end
redis.call('PUBLISH', queue, table.concat({id, unpack(meant)}, '\\n'))
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
    + HOMES
    + """
-- KEYS: the heartbeat, the index of the base's workers, when each fingerprint was last alive.
-- ARGV: heartbeat, worker, fingerprint, time to live in ms, base, 1 if it may be home to anybody, then what it holds.
local time, worker, base, index = now(), ARGV[2], ARGV[5], workers_of(ARGV[5])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[4])
redis.call('ZADD', KEYS[2], time + ARGV[4], worker)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', time)
if ARGV[3] ~= '' then redis.call('ZADD', KEYS[3], time, ARGV[3]) end
redis.call('ZREMRANGEBYSCORE', index, '-inf', time)
if ARGV[6] == '0' then redis.call('ZREM', index, worker) return 1 end
redis.call('ZADD', index, time + ARGV[4], worker)
redis.call('EXPIRE', index, REMEMBERED_HOMES)
if redis.call('ZCARD', index) == 1 then return 1 end
for i = 7, #ARGV do
  redis.call('ZADD', holds_of(base, worker), time + HOLDS_MS, ARGV[i])
  redis.call('ZADD', homes_of(base, ARGV[i]), 'NX', 1, worker)
  redis.call('EXPIRE', homes_of(base, ARGV[i]), REMEMBERED_HOMES)
end
redis.call('ZREMRANGEBYSCORE', holds_of(base, worker), '-inf', time)
redis.call('PEXPIRE', holds_of(base, worker), HOLDS_MS)
return 1
"""
)

DEPART: Final = (
    HOMES
    + """
-- KEYS: the heartbeat. ARGV: base, worker.
redis.call('DEL', KEYS[1], holds_of(ARGV[1], ARGV[2]))
redis.call('ZREM', workers_of(ARGV[1]), ARGV[2])
redis.call('HDEL', rooms_of(ARGV[1]), ARGV[2])
return 1
"""
)
