-- Asks windows one after the other, in one atomic step (GCRA, as governor does it, in whole nanoseconds).
--
-- KEYS     the windows, narrowest first. A key holds the time at which its window will be unused again, as
--          "seconds.nanoseconds" of this server's clock, and is gone soon after that time.
-- ARGV[1]  "take", or "look": then nothing is written.
-- ARGV[2i], ARGV[2i+1]   of window i: nanoseconds that one request takes up, and how many may be taken up already.
-- now      {seconds, microseconds}, set by the line that stands before this text.
-- Returns  for each asked window how many nanoseconds are taken up now; for one that refuses, which is the last,
--          minus the nanoseconds until one request passes.
--
-- Seconds and nanoseconds are kept apart since numbers here are doubles: exact up to 2^53, and since 1970 there have
-- been more nanoseconds than that. What is taken up is at most a day.
local second, nanosecond = tonumber(now[1]), tonumber(now[2]) * 1000
local reply = {}
for i, key in ipairs(KEYS) do
  local one, others = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  local taken = 0
  local held = redis.pcall('GET', key)
  if held then
    local s, ns
    if type(held) == 'string' then
      s, ns = string.match(held, '^(%d+)%.(%d+)$')
    elseif not string.find(held.err, 'WRONGTYPE', 1, true) then
      return held
    end
    if not s then
      return redis.error_reply('FOREIGN ' .. key .. ' holds something else than the state of a rate')
    end
    taken = (tonumber(s) - second) * 1000000000 + (tonumber(ns) - nanosecond)
    -- More cannot have been taken up: the clock went back, by a step or by a failover to another server.
    taken = math.max(0, math.min(taken, one + others))
  end
  if taken > others then
    reply[i] = others - taken
    return reply
  end
  taken = taken + one
  if ARGV[1] == 'take' then
    local at = nanosecond + taken
    local state = string.format('%d.%09d', second + math.floor(at / 1000000000), at % 1000000000)
    redis.call('SET', key, state, 'PX', string.format('%d', math.ceil(taken / 1000000) + 1000))
  end
  reply[i] = taken
end
return reply
