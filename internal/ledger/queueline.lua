-- KEYS[1] any key
-- Returns a short name of the line of history that its server goes on with.
return string.sub(line() or '', 1, 8)
