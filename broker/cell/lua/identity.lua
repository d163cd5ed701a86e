local mark = KEYS[1]

-- What the server is called: run_id is another one after a restart, master_replid after a promotion. A Redis that has
-- neither (the embedded one) is always the same.
local function identity(salt)
  local server, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
  if type(server) ~= 'string' or type(replication) ~= 'string' then
    return 'embedded:' .. salt
  end
  return (string.match(server, 'run_id:(%x+)') or '?') .. ':' .. (string.match(replication, 'master_replid:(%x+)') or '?') .. ':' .. salt
end

