"""Which workers a request is meant for, in Lua: the functions that submitting, claiming and beating share.

A *home* of a request is a live worker that holds what it wants, or is to hold it. Of a base there are kept, each with
an expiry and none for an adapter that nobody asks for: the live workers, until when each lives; what each holds, by
beat and by claim; for each digest the workers that have it, by their last claim; how often each was claimed in this
window of time and in the one before; and for each conversation who answered it.

The homes of a digest are the `k` holders that claimed it last and, where there are fewer, the first of the others by
rendezvous hashing (Thaler and Ravishankar, 1998): the worker whose name and the digest have the highest hash, so that
a worker that dies moves its own digests and no others. `k` is one, and one more for each worker's fair share of all
claims that the digest has. Where the homes are crowded, with less than half of the idle rows that another worker has,
that one is their *relief*, and by its claim the home from then on: so loads level out, which no hash knows of
(consistent hashing with bounded loads, Mirrokni et al., 2018).
"""

from __future__ import annotations

from typing import Final

from inference.wire.contract import SECOND_SHARE

HOLDS_MS: Final = 7_000
"""How long a worker is taken to hold what it claimed or told of, unless it says so again."""
REMEMBERED_SECONDS: Final = 3600
"""How long it is remembered who has an adapter that nobody claims."""
CONVERSATION_SECONDS: Final = 600
"""How long it is remembered who answered a conversation: blocks that nobody reads for longer have mostly gone."""
WINDOW_MS: Final = 30_000
"""Claims are counted in windows of this time, of which the last counts as far as it reaches into the present one."""
FEW_CLAIMS: Final = 32
"""With fewer claims for each worker, in all, no adapter is hot."""
SPARE_ROWS: Final = 4
"""So many rows more than twice those of the homes must be idle on a worker that would have to load the adapter."""
LONGEST_TURN: Final = 16
"""For so many times the bounded time the head of a line is left at most for homes whose rows are all taken."""
LOOKS: Final = 64
"""At how many tenants, and at how many requests of a lone one, a claim looks for what it is home to."""

HOMES: Final = (
    f"local HOLDS_MS, CONVERSATION_SECONDS, REMEMBERED_HOMES = {HOLDS_MS}, {CONVERSATION_SECONDS}, {REMEMBERED_SECONDS}"
    "\n"
    f"local WINDOW_MS, FEW_CLAIMS, LOOKS, SECOND_SHARE = {WINDOW_MS}, {FEW_CLAIMS}, {LOOKS}, {SECOND_SHARE}\n"
    f"local SPARE_ROWS, LONGEST_TURN = {SPARE_ROWS}, {LONGEST_TURN}"
    + """
local UNKNOWN_ROOM = 1000000
local function workers_of(base) return 'generation:homes:' .. base end
local function homes_of(base, digest) return 'generation:homes:' .. base .. ':' .. digest end
local function holds_of(base, worker) return 'generation:holds:' .. base .. ':' .. worker end
local function heat_of(base, window) return 'generation:heat:' .. base .. ':' .. string.format('%d', window) end
local function rooms_of(base) return 'generation:homes:' .. base .. ':room' end
local function conversation_of(base, key) return 'generation:conversation:' .. base .. ':' .. key end

-- What the live workers of a base are, or nil where `worker`, or whoever it is, has no other to choose from.
local function router_of(base, worker, time)
  local names = redis.call('ZRANGEBYSCORE', workers_of(base), '(' .. string.format('%d', time), '+inf')
  if #names == 0 or (#names == 1 and (worker == '' or names[1] == worker)) then return nil end
  local router = {base = base, time = time, names = names, live = {}, known = {}, rooms = {}, gaps = {}, lasts = {}}
  table.sort(names)
  for _, name in ipairs(names) do router.live[name] = true end
  for i, told in ipairs(redis.call('HMGET', rooms_of(base), unpack(names))) do
    local room, gap, last = string.match(told or '', '^(%S+) (%S+) (%S+)$')
    router.rooms[names[i]], router.gaps[names[i]] = tonumber(room), tonumber(gap)
    router.lasts[names[i]] = tonumber(last)
  end
  return router
end
local function set_room(router, worker, room)
  router.rooms[worker], router.known = room, {}
end
-- Let it be known that `worker` has claimed so many now, each a gap after the one before.
local function count_claims(router, worker, num)
  local gap, last = router.gaps[worker] or 0, router.lasts[worker]
  if last then gap = gap + (math.min(WINDOW_MS, (router.time - last) / num) - gap) / 4 end
  router.gaps[worker], router.lasts[worker] = gap, router.time
end
-- Keep what `worker` told of itself, and forget what those told that have died.
local function tell_room(router, worker)
  local key = rooms_of(router.base)
  local last = router.lasts[worker] and string.format('%d', router.lasts[worker]) or 'never'
  local told = string.format('%d %.1f %s', router.rooms[worker], router.gaps[worker] or 0, last)
  redis.call('HSET', key, worker, told)
  redis.call('EXPIRE', key, REMEMBERED_HOMES)
  if redis.call('HLEN', key) <= #router.names then return end
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if not router.live[name] and name ~= worker then redis.call('HDEL', key, name) end
  end
end
-- For how many ms the head of a line is left for these homes: until the quickest of them has claimed four more, within
-- bounds.
local function turn_of(router, homes, patience)
  local gap = WINDOW_MS
  for name in pairs(homes.has) do gap = math.min(gap, router.gaps[name] or 0) end
  return math.max(patience, math.min(LONGEST_TURN * patience, 4 * gap))
end

local function claims_of(router, digest)
  local window = math.floor(router.time / WINDOW_MS)
  local left = 1 - (router.time - window * WINDOW_MS) / WINDOW_MS
  local here = redis.call('HMGET', heat_of(router.base, window), digest, '')
  local before = redis.call('HMGET', heat_of(router.base, window - 1), digest, '')
  local function counted(i) return tonumber(here[i] or 0) + left * tonumber(before[i] or 0) end
  return counted(1), counted(2)
end
local function num_homes(router, digest)
  local own, all = claims_of(router, digest)
  local share = own / math.max(all, FEW_CLAIMS * #router.names)
  return math.min(#router.names, 1 + math.floor(share * #router.names))
end

local function holds(router, worker, digest)
  local until_then = redis.call('ZSCORE', holds_of(router.base, worker), digest)
  return until_then and tonumber(until_then) > router.time
end
local function holders(router, digest)
  local found = {}
  for _, name in ipairs(redis.call('ZREVRANGE', homes_of(router.base, digest), 0, -1)) do
    if not router.live[name] then redis.call('ZREM', homes_of(router.base, digest), name)
    elseif holds(router, name, digest) then found[#found + 1] = name end
  end
  return found
end
local function by_rendezvous(router, digest)
  local hashes, names = {}, {}
  for i, name in ipairs(router.names) do hashes[name], names[i] = redis.sha1hex(name .. ' ' .. digest), name end
  table.sort(names, function(a, b) return hashes[a] > hashes[b] end)
  return names
end
local function chosen(router, digest, found)
  local homes, num = {names = {}, has = {}, held = {}}, num_homes(router, digest)
  local function add(names)
    for _, name in ipairs(names) do
      if #homes.names < num and not homes.has[name] then
        homes.names[#homes.names + 1], homes.has[name] = name, true
      end
    end
  end
  add(found)
  if #homes.names < num then add(by_rendezvous(router, digest)) end
  for _, name in ipairs(found) do homes.held[name] = true end
  return homes
end
-- Put `homes` in the order of their room, and where they are crowded add their relief: of those that have room the
-- worker with the most, one that holds it if there is such.
local function relieved(router, homes)
  local function room_of(name) return router.rooms[name] or UNKNOWN_ROOM end
  table.sort(homes.names, function(a, b)
    if room_of(a) ~= room_of(b) then return room_of(a) > room_of(b) end
    return a < b
  end)
  local best, rank = homes.names[1] and room_of(homes.names[1]) or 0, 0
  for _, name in ipairs(router.names) do
    local room, spare = router.rooms[name] or 0, homes.held[name] and 0 or SPARE_ROWS
    local its_rank = room + (homes.held[name] and UNKNOWN_ROOM or 0)
    if room > math.max(0, 2 * best + spare) and its_rank > rank then homes.relief, rank = name, its_rank end
  end
  if homes.relief then homes.has[homes.relief] = true end
  return homes
end
local function homes_by_digest(router, wants)
  local first
  for digest in string.gmatch(wants, '%S+') do
    first = first or digest
    local found = holders(router, digest)
    if #found > 0 then return chosen(router, digest, found) end
  end
  return first and chosen(router, first, {})
end

-- The homes of who wants these digests and continues that conversation: their names by their room, their relief if they
-- are crowded, whether one of a name is among all these, and who of all workers holds it. Nil where anybody will do.
local function homes_for(router, wants, continues)
  local last = continues ~= '' and redis.call('GET', conversation_of(router.base, continues))
  if last and router.live[last] then return relieved(router, {names = {last}, has = {[last] = true}, held = {}}) end
  if router.known[wants] == nil then
    local homes = homes_by_digest(router, wants)
    router.known[wants] = homes and relieved(router, homes) or false
  end
  return router.known[wants] or nil
end

-- Let it be known that `worker` has claimed it.
local function settle(router, worker, wants, conversation)
  local digest = string.match(wants, '%S+')
  if digest then
    local heat = heat_of(router.base, math.floor(router.time / WINDOW_MS))
    redis.call('ZADD', holds_of(router.base, worker), router.time + HOLDS_MS, digest)
    redis.call('PEXPIRE', holds_of(router.base, worker), HOLDS_MS)
    local moment = redis.call('TIME')
    redis.call('ZADD', homes_of(router.base, digest), moment[1] * 1000000 + moment[2], worker)
    redis.call('EXPIRE', homes_of(router.base, digest), REMEMBERED_HOMES)
    redis.call('HINCRBY', heat, digest, 1)
    redis.call('HINCRBY', heat, '', 1)
    redis.call('PEXPIRE', heat, 2 * WINDOW_MS)
  end
  if conversation ~= '' then
    redis.call('SET', conversation_of(router.base, conversation), worker, 'EX', CONVERSATION_SECONDS)
  end
end
"""
)
