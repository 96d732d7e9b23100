-- KEYS[1] batch   ARGV how far behind its cursor it may have been sent
-- Returns the place before which links may have been sent, and 1 if that is news;
-- or nothing where no failover can be told.
if not line() then return {} end
return {doubt(KEYS[1], tonumber(ARGV[1]))}
