local mark = KEYS[1]

-- after returns the hexadecimal digits after a name. Patterns that are not anchored are slow: this runs in every script.
local function after(text, name)
  local _, last = string.find(text, name, 1, true)
  return last and string.match(text, '^%x+', last + 1) or '?'
end

-- What the server is called: run_id is another one after a restart, master_replid after a promotion. A Redis that has
-- neither (the embedded one) is always the same.
local function identity(salt)
  local server, replication = redis.pcall('INFO', 'server'), redis.pcall('INFO', 'replication')
  if type(server) ~= 'string' or type(replication) ~= 'string' then
    return 'embedded:' .. salt
  end
  return after(server, 'run_id:') .. ':' .. after(replication, 'master_replid:') .. ':' .. salt
end

