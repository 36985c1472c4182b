-- A DELETE with a bearer token, for wrk.
function init(args)
  wrk.method = "DELETE"
  wrk.headers["Authorization"] = "Bearer " .. args[1]
end
