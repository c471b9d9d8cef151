"""The wire's transactions, in Lua for Redis 6.2 or later: whatever must happen together or not at all.

Times are the server's own, in milliseconds, so that no two machines need agree on a clock. Beside each queue
stands its line, a sorted set of the ids in it: a claimed one is scored with the moment its lease ends, and one
that was never claimed with a number beyond every moment, in order of arrival. So places and lengths are ranks.
"""

from __future__ import annotations

from typing import Final

_PRELUDE: Final = """
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function stream_of(id) return 'generation:' .. id end
local function claim_of(id) return 'generation:' .. id .. ':claim' end
local UNCLAIMED = 100000000000000
local function line_of(queue) return queue .. ':line' end
local function count(queue, low, high) return redis.call('ZCOUNT', line_of(queue), low, high) end
local function num_leased(queue) return count(queue, '(' .. string.format('%d', now()), '(' .. UNCLAIMED) end
local function waiting(queue) return redis.call('ZCARD', line_of(queue)) - num_leased(queue) end
local function is_leased(queue, id)
  local score = tonumber(redis.call('ZSCORE', line_of(queue), id))
  return score > now() and score < UNCLAIMED
end
local function receipt(id)
  local stopping = redis.call('HEXISTS', claim_of(id), 'stop')
  return {1, stopping, redis.call('XLEN', stream_of(id))}
end
local function finish(id, terminal)
  local claim = redis.call('HMGET', claim_of(id), 'queue', 'entry', 'request')
  local queue, entry, request = claim[1], claim[2], claim[3]
  redis.call('XADD', stream_of(id), (redis.call('XLEN', stream_of(id)) + 1) .. '-0', 'event', terminal)
  redis.call('XADD', 'generation:finished', '*', 'id', id, 'request', request or '', 'terminal', terminal)
  if queue then
    redis.call('XACK', queue, 'workers', entry)
    redis.call('XDEL', queue, entry)
    redis.call('ZREM', line_of(queue), id)
  end
  redis.call('DEL', claim_of(id))
end
"""

SUBMIT: Final = (
    _PRELUDE
    + """
-- KEYS: the request's queue, then every queue of its base. ARGV: id, request, limit. Returns -1 or how many wait.
local id, queue = ARGV[1], KEYS[1]
if redis.call('EXISTS', claim_of(id), stream_of(id)) > 0 then return -1 end
local total = 0
for i = 2, #KEYS do total = total + waiting(KEYS[i]) end
if total >= tonumber(ARGV[3]) then return total end
local entry = redis.call('XADD', queue, '*', 'id', id)
redis.call('HSET', claim_of(id), 'queue', queue, 'entry', entry, 'request', ARGV[2], 'attempts', 0)
local last = redis.call('ZREVRANGE', line_of(queue), 0, 0, 'WITHSCORES')[2]
redis.call('ZADD', line_of(queue), math.max(UNCLAIMED, tonumber(last or 0)) + 1, id)
redis.call('PUBLISH', queue, id)
return -1
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
local queue = redis.call('HGET', claim_of(id), 'queue')
if not queue or is_leased(queue, id) then return -1 end
local ahead = 0
for i = 2, #ARGV do
  local other = string.gsub(queue, '[^:]*$', '') .. ARGV[i]
  if other == queue then break end
  ahead = ahead + waiting(other)
end
local rank = redis.call('ZRANK', line_of(queue), id)
local was_claimed = tonumber(redis.call('ZSCORE', line_of(queue), id)) < UNCLAIMED
return ahead + rank - (was_claimed and 0 or num_leased(queue))
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
-- KEYS: when each fingerprint was last alive; the queues in order of priority.
-- ARGV: worker, fingerprint, count, lease in ms, token, attempts allowed, leases that an orphan waits.
-- Returns {id, request, attempts, doom or '', length} of each.
local worker, fingerprint, room = ARGV[1], ARGV[2], tonumber(ARGV[3])
local lease, token = tonumber(ARGV[4]), ARGV[5]
local patience = tonumber(ARGV[7]) * lease
local time, taken = now(), {}

local function take(queue, id, doom)
  local claim = claim_of(id)
  redis.call('HSET', claim, 'token', token, 'worker', worker)
  local attempts = redis.call('HINCRBY', claim, 'attempts', 1)
  redis.call('ZADD', line_of(queue), time + lease, id)
  taken[#taken + 1] = {id, redis.call('HGET', claim, 'request'), attempts, doom, redis.call('XLEN', stream_of(id))}
  if doom == '' then room = room - 1 end
end

local function judge(id, deadline)
  local claim = redis.call('HMGET', claim_of(id), 'stop', 'attempts', 'fingerprint')
  if claim[1] then return 'stopped' end
  if tonumber(claim[2]) >= tonumber(ARGV[6]) then return 'worker_lost' end
  if not claim[3] or claim[3] == fingerprint then return '' end
  local alive = redis.call('ZSCORE', KEYS[1], claim[3])
  if math.max(deadline, tonumber(alive or 0)) + patience > time then return 'other' end
  return 'fingerprint_changed'
end

for i = 2, #KEYS do
  local queue = KEYS[i]
  local expired = redis.call('ZRANGEBYSCORE', line_of(queue), '-inf', time, 'WITHSCORES')
  for j = 1, #expired, 2 do
    local doom = judge(expired[j], tonumber(expired[j + 1]))
    if doom ~= 'other' and (doom ~= '' or room > 0) then take(queue, expired[j], doom) end
  end
  redis.pcall('XGROUP', 'CREATE', queue, 'workers', '0', 'MKSTREAM')
  local fresh = room > 0 and redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', room, 'STREAMS', queue, '>')
  for _, entry in ipairs(fresh and fresh[1][2] or {}) do take(queue, entry[2][2], '') end
end
return taken
"""
)

RENEW: Final = (
    _PRELUDE
    + """
-- ARGV: id, token, lease in ms. Returns a receipt.
local id = ARGV[1]
local claim = redis.call('HMGET', claim_of(id), 'token', 'queue')
if claim[1] ~= ARGV[2] then return {0, 0, 0} end
redis.call('ZADD', line_of(claim[2]), now() + ARGV[3], id)
return receipt(id)
"""
)

APPEND: Final = (
    _PRELUDE
    + """
-- ARGV: id, token, length expected (-1: any), fingerprint to record ('' for none), terminal event or '', events.
-- Returns a receipt. Entries are numbered from 1, so one that is there already is known by its number.
local id, after, terminal = ARGV[1], tonumber(ARGV[3]), ARGV[5]
if redis.call('HGET', claim_of(id), 'token') ~= ARGV[2] then return {0, 0, 0} end
local length = redis.call('XLEN', stream_of(id))
if after < 0 then after = length end
if after > length then return receipt(id) end
for i = 6, #ARGV do
  local number = after + i - 5
  if number > length then redis.call('XADD', stream_of(id), number .. '-0', 'event', ARGV[i]) end
end
if ARGV[4] ~= '' then redis.call('HSETNX', claim_of(id), 'fingerprint', ARGV[4]) end
if terminal ~= '' then finish(id, terminal) end
return receipt(id)
"""
)

RELEASE: Final = (
    _PRELUDE
    + """
-- ARGV: id, token, 1 if the attempt counts.
local id = ARGV[1]
local claim = redis.call('HMGET', claim_of(id), 'token', 'queue')
if claim[1] ~= ARGV[2] then return 0 end
redis.call('HDEL', claim_of(id), 'token', 'worker')
if ARGV[3] == '0' then redis.call('HINCRBY', claim_of(id), 'attempts', -1) end
redis.call('ZADD', line_of(claim[2]), now(), id)
redis.call('PUBLISH', claim[2], id)
return 1
"""
)

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
