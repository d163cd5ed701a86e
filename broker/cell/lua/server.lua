-- server: what the server is called now. After WAIT it must be what the script before it said: a server that was demoted
-- and promoted in between counts bytes of another history, and its WAIT says yes to what is gone.
-- KEYS: mark. Answer: the name. It changes nothing.
return identity(redis.call('HGET', mark, 'salt') or 'none')
