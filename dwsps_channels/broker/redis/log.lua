-- The operations on the log of one server. Each call is one atomic step.
--
-- KEYS  1 the state, a hash   2 the log, a stream   3 the keys of publishes, a hash   4 the older ones, a hash
--       5 the keys of durable publishes, a hash   6 the older ones, a hash
-- ARGV  1 the operation   2... its arguments
--
-- Fields of the state:
--   epoch, run        the epoch, and the Redis (run and replication id) under which it was last vouched for
--   offset, last      of the last publication; the id of the last entry ("0-0": there was none)
--   floor             every publication after this offset is in the log
--   count, bytes      publications in the log, and the bytes of their entries
--   roots             JSON: of each root whether it is kept; of those that are also floor:, last:, count:, bytes: and the name
--   keys_at, keys_n   since when the newer hash of keys is used, in ms, and how many it has; durable_at, durable_n: the same
--   p:<process>       a process that reads: when it was last heard, in ms
--   s:<process>       what became of its last batch: "<number> <first offset, or 0> <ms> <position:offset of known keys>"
--   vote, v:<process> the Redis that processes vouch for, "<run> <since ms>"; for which one each process did
--   heard             when a process that reads was last heard, in ms
--   purged            when processes that are gone were last forgotten, in ms
local state, log = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- The keys of publishes, in two hashes, so that forgetting takes no look at single ones. A key is remembered for `age` ms
-- at least, and for three times as long at the most, unless there are more than `each` in a hash. Those of durable
-- publishes are apart: a row may be published again long after it was first, and clients that flood the server with keys
-- must not push it out.
local ordinary = {newer = KEYS[3], older = KEYS[4], name = 'keys', age = 300000, each = 50000}
local durable = {newer = KEYS[5], older = KEYS[6], name = 'durable', age = 86400000, each = 200000}

local DURABLE = 'server:durable:'   -- how the keys of durable publishes begin

local GRACE = 10000         -- ms in which processes read what is over the bounds, before it may go
local SLACK = 33554432      -- bytes over its bound that the log has at the most, read or not; a small one three times its bound
local ALIVE = 5000          -- ms: a process that was heard so long before the last that was heard counts
local VOTE = 6000           -- ms in which all processes must have vouched for another Redis: a connect may hang for 3 s
local PAGES = 1000          -- of 8 entries, that one call looks at to trim: Redis does nothing else meanwhile
local GONE = 600000         -- ms after which a process that is not heard is forgotten

-- tostring would write 1e+15.
local function int(number)
  return string.format('%.0f', number)
end

local function offset_of(id)
  return tonumber(string.match(id, '^%d+'))
end

local function get(...)
  local values = redis.call('HMGET', state, ...)
  for index = 1, #values do
    values[index] = values[index] or nil
  end
  return unpack(values, 1, select('#', ...))
end

local function stream_of(root)
  return log .. ':' .. root
end

-- Return the bytes that a stream has at the most, whatever processes have yet to read.
local function most(bytes)
  return bytes + math.min(3 * bytes, SLACK)
end

-- Remove the oldest entries of a stream that is over its bounds, never the newest. What is left over the next calls remove.
local function trim(stream, suffix, messages, bytes, age, grace)
  local has, size = get('count' .. suffix, 'bytes' .. suffix)
  has, size = tonumber(has or 0), tonumber(size or 0)
  for _ = 1, PAGES do
    local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', 8)
    local kept = 1
    while kept < #entries do
      local fields = entries[kept][2]
      local old = now - tonumber(fields[8])
      local is_over = has > messages or size > bytes or old > age
      if not (is_over and (old >= grace or size > most(bytes))) then
        break
      end
      has, size, kept = has - tonumber(fields[10]), size - #fields[14], kept + 1
    end
    if kept > 1 then
      local first = entries[kept][1]
      redis.call('XTRIM', stream, 'MINID', first)
      redis.call('HSET', state, 'count' .. suffix, int(has), 'bytes' .. suffix, int(size),
        'floor' .. suffix, int(offset_of(first) - 1))
    end
    if kept == 1 or kept < #entries or #entries < 8 then
      break
    end
  end
end

-- Is there a log, and is it whole?
local function is_lost(epoch, last)
  return not epoch or (last ~= '0-0' and redis.call('EXISTS', log) == 0)
end

-- Have the state name the roots that this process has. One is complete from here on only if it was kept before, and
-- nothing below it was kept apart, or not at all.
local function keep_roots(roots, known, offset)
  local wanted, had, gone = cjson.decode(roots), cjson.decode(known or '{}'), {}
  local function forget(name)
    redis.call('DEL', stream_of(name))
    redis.call('HDEL', state, 'floor:' .. name, 'last:' .. name, 'count:' .. name, 'bytes:' .. name)
  end
  for name, was_kept in pairs(had) do
    if wanted[name] == nil then
      gone[#gone + 1] = name
    end
    if was_kept and not wanted[name] then
      forget(name)
    end
  end
  for name, is_kept in pairs(wanted) do
    local is_whole = had[name]
    for _, other in ipairs(gone) do
      is_whole = is_whole and string.sub(other, 1, #name + 1) ~= name .. '.'
    end
    if is_kept and not is_whole then
      forget(name)
      redis.call('HSET', state, 'floor:' .. name, offset)
    end
  end
  redis.call('HSET', state, 'roots', roots)
end

-- Forget the oldest keys, if it is time. Once a call will do.
local function turn(kind)
  local since, count = get(kind.name .. '_at', kind.name .. '_n')
  since, count = tonumber(since or 0), tonumber(count or 0)
  if now - since >= kind.age or count >= kind.each then
    redis.call('UNLINK', kind.older)
    if now - since >= 2 * kind.age then
      redis.call('UNLINK', kind.newer)
    elseif redis.call('EXISTS', kind.newer) == 1 then
      redis.call('RENAME', kind.newer, kind.older)
    end
    count = 0
    redis.call('HSET', state, kind.name .. '_at', int(now))
  end
  kind.count = count
end

-- Return the offset of the publication that had this key. If there was none, remember that the key has `offset`.
local function remember(key, offset)
  local kind = string.sub(key, 1, #DURABLE) == DURABLE and durable or ordinary
  if not kind.count then
    turn(kind)
  end
  local found = redis.call('HGET', kind.newer, key) or redis.call('HGET', kind.older, key)
  if not found then
    redis.call('HSET', kind.newer, key, int(offset))
    kind.count = kind.count + 1
  end
  return found
end

-- ARGV  2 epoch ('': any)  3 process  4 number of the batch  5 nonce  6 how many publications  7 they, encoded
--       8 bound of bytes  9 roots, JSON  10 how many have a key  then of each: its place from 0, the key
--       then how many kept roots are concerned  then of each: name, places, how many, they, bound of bytes
-- Returns {'ok', first offset or 0, 'place:offset,...' of those whose key is known, ms since a process that reads was
-- last heard} or {'lost'}.
local function append()
  local process, number, nonce = ARGV[3], ARGV[4], ARGV[5]
  local epoch, offset, last, count, bytes, roots, sent, heard = get('epoch', 'offset', 'last', 'count', 'bytes',
    'roots', 's:' .. process, 'heard')
  local quiet = int(now - tonumber(heard or 0))
  if is_lost(epoch, last) then
    return {'lost'}
  end
  if sent then
    local had, first, known = string.match(sent, '^(%d+) (%d+) %d+ (.*)$')
    if tonumber(had) >= tonumber(number) then
      return {'ok', first, known, quiet}
    end
  end
  if ARGV[2] ~= '' and ARGV[2] ~= epoch then
    return {'lost'}
  end
  if ARGV[9] ~= (roots or '{}') then
    keep_roots(ARGV[9], roots, offset)
  end
  local first = tonumber(offset) + 1
  local known, skipped, at = {}, {}, 11
  for _ = 1, tonumber(ARGV[10]) do
    local place, key = ARGV[at], ARGV[at + 1]
    at = at + 2
    local found = remember(key, first + tonumber(place) - #skipped)
    if found then
      known[#known + 1] = place .. ':' .. found
      skipped[#skipped + 1] = place
    end
  end
  for _, kind in ipairs({ordinary, durable}) do
    if kind.count then
      redis.call('HSET', state, kind.name .. '_n', int(kind.count))
    end
  end
  local kept = tonumber(ARGV[6]) - #skipped
  known, skipped = table.concat(known, ','), table.concat(skipped, ',')
  local id = int(first) .. '-' .. nonce
  if kept == 0 then
    first = 0
  else
    offset = first + kept - 1
    bytes = tonumber(bytes or 0) + #ARGV[7]
    -- Always the same fields: Redis writes them once for many entries, and everybody reads them by their place.
    redis.call('XADD', log, id, 'e', epoch, 'p', last, 's', process .. ' ' .. number, 't', int(now),
      'n', int(kept), 'x', skipped, 'd', ARGV[7])
    redis.call('HSET', state, 'offset', int(offset), 'last', id, 'count', int(tonumber(count or 0) + kept),
      'bytes', int(bytes))
    if bytes > most(tonumber(ARGV[8])) then
      trim(log, '', math.huge, tonumber(ARGV[8]), math.huge, math.huge)
    end
    local concerned = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, concerned do
      local name, bound = ARGV[at], tonumber(ARGV[at + 4])
      local suffix = ':' .. name
      local has, size, before = get('count' .. suffix, 'bytes' .. suffix, 'last' .. suffix)
      -- Redis has evicted it.
      if before and redis.call('EXISTS', stream_of(name)) == 0 then
        has, size = 0, 0
        redis.call('HSET', state, 'floor' .. suffix, int(first - 1))
      end
      redis.call('XADD', stream_of(name), id, 'e', epoch, 'p', ARGV[at + 1], 's', process .. ' ' .. number,
        't', int(now), 'n', ARGV[at + 2], 'x', skipped, 'd', ARGV[at + 3])
      size = tonumber(size or 0) + #ARGV[at + 3]
      redis.call('HSET', state, 'count' .. suffix, int(tonumber(has or 0) + ARGV[at + 2]), 'bytes' .. suffix,
        int(size), 'last' .. suffix, int(offset))
      if size > most(bound) then
        trim(stream_of(name), suffix, math.huge, bound, math.huge, math.huge)
      end
      at = at + 5
    end
  end
  redis.call('HSET', state, 's:' .. process, number .. ' ' .. int(first) .. ' ' .. int(now) .. ' ' .. known)
  return {'ok', int(first), known, quiet}
end

-- Forget the processes that are gone, once a minute.
local function purge()
  if now - tonumber(get('purged') or 0) < 60000 then
    return
  end
  redis.call('HSET', state, 'purged', int(now))
  local all = redis.call('HGETALL', state)
  for index = 1, #all, 2 do
    local kind = string.sub(all[index], 1, 2)
    local heard = kind == 'p:' and all[index + 1] or kind == 's:' and string.match(all[index + 1], '^%d+ %d+ (%d+)')
    if heard and now - tonumber(heard) > GONE then
      redis.call('HDEL', state, all[index])
    end
  end
end

-- ARGV  2 epoch  3 process  4 the Redis  5 how many streams, of which the first is the log
--       then of each: the root's name ('' for the log), bounds of messages, bytes and age in ms
-- Returns {'ok'}, {'lost'}, or {'asked'}: others vouch for another Redis, so join them.
local function beat()
  local epoch, last, voted = get('epoch', 'last', 'vote')
  if is_lost(epoch, last) or epoch ~= ARGV[2] then
    return {'lost'}
  end
  local run, since = string.match(voted or '', '^(%S+) (%d+)$')
  if run and run ~= ARGV[4] and now - tonumber(since) <= VOTE then
    return {'asked'}
  end
  redis.call('HSET', state, 'p:' .. ARGV[3], int(now), 'run', ARGV[4], 'heard', int(now))
  local at = 6
  for _ = 1, tonumber(ARGV[5]) do
    local name = ARGV[at]
    local messages, bytes, age = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    if name == '' then
      trim(log, '', messages, bytes, age, GRACE)
    else
      trim(stream_of(name), ':' .. name, messages, bytes, age, 0)
    end
    at = at + 4
  end
  purge()
  return {'ok'}
end

-- Begin another epoch, under the Redis `run`.
local function renew(epoch, run)
  local known, last, offset, roots = get('epoch', 'last', 'offset', 'roots')
  if is_lost(known, last) then
    for name in pairs(cjson.decode(roots or '{}')) do
      redis.call('UNLINK', stream_of(name))
    end
    redis.call('UNLINK', log, ordinary.newer, ordinary.older, durable.newer, durable.older, state)
    offset = offset or '0'
    redis.call('HSET', state, 'offset', offset, 'floor', offset, 'last', '0-0')
  end
  redis.call('HSET', state, 'epoch', epoch, 'run', run)
  redis.call('HDEL', state, 'vote')
end

-- Vouch for `run`: true once every process that was alive does, false if one does not in time, nil until then.
local function vote(process, run)
  local all, heard, latest = redis.call('HGETALL', state), {}, 0
  local since = now
  if process ~= '' then
    redis.call('HSET', state, 'v:' .. process, run)
  end
  local vouched = {[process] = process ~= ''}
  for index = 1, #all, 2 do
    local kind, name, value = string.sub(all[index], 1, 2), string.sub(all[index], 3), all[index + 1]
    if kind == 'p:' then
      heard[name] = tonumber(value)
      latest = math.max(latest, heard[name])
    elseif kind == 'v:' then
      vouched[name] = vouched[name] or value == run
    elseif all[index] == 'vote' then
      local voted, at = string.match(value, '^(%S+) (%d+)$')
      since = voted == run and tonumber(at) or now
    end
  end
  redis.call('HSET', state, 'vote', run .. ' ' .. int(since))
  local is_asked, is_whole = false, true
  for name, at in pairs(heard) do
    if latest - at <= ALIVE then
      is_asked = true
      is_whole = is_whole and vouched[name] == true
    end
  end
  -- Without a process that has read it, nobody knows where the log ended.
  local has_vouched = is_whole and (process ~= '' or is_asked)
  if has_vouched or not is_asked or now - since > VOTE then
    for name in pairs(vouched) do
      redis.call('HDEL', state, 'v:' .. name)
    end
    redis.call('HDEL', state, 'vote')
    return has_vouched
  end
end

-- Does the log go on after `read`, the id of an entry ("0-0": the beginning)?
local function follows(read, last)
  if read == last then
    return true
  elseif read == '0-0' then
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    return first ~= nil and first[2][4] == read
  end
  return #redis.call('XRANGE', log, read, read) == 1
end

-- Verify that this Redis has what the process has read.
-- ARGV  2 process ('': it only publishes or loads)  3 the Redis  4 a new epoch, if one is needed
--       5 the epoch that the process knows ('': none)  6 the id of the last entry that it has read
-- Returns {what, epoch, offset, id of the last entry}. What: 'same': go on reading; 'begin': load the log; 'wait': ask again.
local function join()
  local process, run, candidate, knows, read = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
  local epoch, last, vouched, floor = get('epoch', 'last', 'run', 'floor')
  local what = 'begin'
  local is_new = is_lost(epoch, last)
  if not is_new and knows ~= '' and knows == epoch then
    if follows(read, last) then
      what = 'same'
    elseif vouched ~= run or offset_of(read) > tonumber(floor or 0) then
      is_new = true -- what it has read is not there, and was not trimmed, as far as anybody knows
    end
  end
  if not is_new and vouched ~= run then
    local result = vote(what == 'same' and process or '', run)
    if result == nil then
      return {'wait', epoch, '0', '0-0'}
    end
    is_new = not result
    redis.call('HSET', state, 'run', run)
  end
  if is_new then
    renew(candidate, run)
    what = 'begin'
  end
  if process ~= '' then
    redis.call('HSET', state, 'p:' .. process, int(now), 'heard', int(now))
  end
  local offset
  epoch, offset, last = get('epoch', 'offset', 'last')
  return {what, epoch, offset, last}
end

-- Return the last entry that begins at `offset` or before.
local function entry_at(offset)
  return redis.call('XREVRANGE', log, int(offset) .. '-18446744073709551615', '-', 'COUNT', 1)[1]
end

-- Return the offset before the first publication that was appended at `since` or later.
local function offset_before(since, offset)
  local low, high = 0, tonumber(offset)
  while low < high do
    local middle = math.ceil((low + high) / 2)
    local entry = entry_at(middle)
    if entry and tonumber(entry[2][8]) >= since then
      high = middle - 1
    else
      low = middle
    end
  end
  return low
end

-- Return a part of the log. It writes nothing.
-- ARGV  2 the Redis  3 the epoch of a position ('': none)  4 its offset  5 the id of the entry that it is in ('': unknown)
--       6 the time from which to read if the log does not know the position, in ms  7 how many publications  8 how many bytes
-- Returns {'ok', epoch, offset, id of the last entry, now, 1 if the position is not known, offset after which the
-- entries begin, the entries, 1 if they are the end of the log} or {'lost'}: there is no log, or nobody has vouched for
-- it under this Redis, so join.
local function read()
  local epoch, last, offset, vouched = get('epoch', 'last', 'offset', 'run')
  if is_lost(epoch, last) or vouched ~= ARGV[2] then
    return {'lost'}
  end
  local after, id, messages, bytes = tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[7]), tonumber(ARGV[8])
  local is_unknown = ARGV[3] ~= epoch or after > tonumber(offset)
  if not is_unknown and id ~= '' then
    local entry = entry_at(after)
    is_unknown = entry ~= nil and entry[1] ~= id
  end
  if is_unknown then
    after = offset_before(tonumber(ARGV[6]), offset)
  end
  local place, found, count, size, is_end = '-', {}, 0, 0, after == tonumber(offset)
  local first = entry_at(after + 1)
  if first then
    local is_before = offset_of(first[1]) + first[2][10] - 1 <= after
    place = (is_before and '(' or '') .. first[1]
  end
  local ask = 1
  while not is_end and count < messages and size < bytes do
    local entries = redis.call('XRANGE', log, place, '+', 'COUNT', ask)
    local at = 1
    while at <= #entries and count < messages and size < bytes do
      local fields = entries[at][2]
      found[#found + 1] = entries[at]
      -- Of the first entry a part may be before.
      count = count + math.min(tonumber(fields[10]), offset_of(entries[at][1]) + fields[10] - 1 - after)
      size, place, at = size + #fields[14], '(' .. entries[at][1], at + 1
    end
    is_end = at > #entries and #entries < ask
    -- No more than will be needed: entries may be large, and Redis does nothing else meanwhile.
    ask = math.max(1, math.min(2 * ask, 32, math.floor((bytes - size) * #found / (size + 1))))
  end
  return {'ok', epoch, offset, last, int(now), is_unknown and 1 or 0, int(after), found, is_end and 1 or 0}
end

if ARGV[1] == 'append' then
  return append()
elseif ARGV[1] == 'beat' then
  return beat()
elseif ARGV[1] == 'read' then
  return read()
end
return join()
