-- Kinds of answers that may not come from the API: a hash by name, with the value 'INDEX LINKS
-- CONTRADICTED POSITION…' and the positions of the first 20 links, to count each once.
local function open_kinds(key, other)
  local known, indexed, changed, n = {}, {}, {}, 0
  local h = redis.call('HGETALL', key)
  for i = 1, #h, 2 do
    local index, links, contradicted, positions = string.match(h[i + 1], '^(%d+) (%d+) (%d)(.*)$')
    local k = {index = tonumber(index), links = tonumber(links), contradicted = contradicted, positions = positions}
    known[h[i]], indexed[k.index], n = k, h[i], n + 1
  end
  local kinds = {}

  -- Counts an answer to a link whose last kind was had (0: none). Returns the index of the kind.
  function kinds.seen(name, position, had)
    local k = known[name]
    if not k then
      if n + 1 >= other then return other end -- no room
      n = n + 1
      k = {index = n, links = 0, contradicted = '0', positions = ''}
      known[name], indexed[n] = k, name
    end
    local at = ' ' .. position
    if had ~= k.index and not string.find(k.positions .. ' ', at .. ' ', 1, true) then
      if k.links < 20 then k.positions = k.positions .. at end
      k.links = k.links + 1
      changed[name] = k
    end
    return k.index
  end

  -- The API itself has answered about a link that got an answer of this kind.
  function kinds.contradict(index)
    local name = indexed[index]
    if name and known[name].contradicted == '0' then
      known[name].contradicted = '1'
      changed[name] = known[name]
    end
  end

  function kinds.save()
    for name, k in pairs(changed) do
      redis.call('HSET', key, name, k.index .. ' ' .. k.links .. ' ' .. k.contradicted .. k.positions)
    end
    return next(changed) ~= nil
  end
  return kinds
end
