-- DELETEs with a bearer token, for wrk: each of another group's picture, since of one only one is under way.
local count = 0

function init(args)
  wrk.method = "DELETE"
  wrk.headers["Authorization"] = "Bearer " .. args[1]
end

function request()
  count = (count + 1) % 1000000000
  return wrk.format(nil, string.format("/sess1/groups/120363%012d@g.us/picture", count))
end
