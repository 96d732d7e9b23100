-- The kinds of answers that the API may not have given, as a batch knows them: a
-- hash of their names, each 'INDEX LINKS CONTRADICTED', then the places in the
-- manifest of the first links that got it, which are counted once however often
-- their answers change.
local function open_kinds(key, other)
  local known, indexed, changed, n = {}, {}, {}, 0
  local h = redis.call('HGETALL', key)
  for i = 1, #h, 2 do
    local index, links, contradicted, places = string.match(h[i + 1], '^(%d+) (%d+) (%d)(.*)$')
    local k = {index = tonumber(index), links = tonumber(links), contradicted = contradicted, places = places}
    known[h[i]], indexed[k.index], n = k, h[i], n + 1
  end
  local kinds = {}

  -- Returns the index of the kind of an answer to the link at a place, whose last
  -- one was of the kind had (0: of none), and counts the link.
  function kinds.seen(name, place, had)
    local k = known[name]
    if not k then
      if n + 1 >= other then return other end -- no room: never trusted
      n = n + 1
      k = {index = n, links = 0, contradicted = '0', places = ''}
      known[name], indexed[n] = k, name
    end
    local at = ' ' .. place
    if had ~= k.index and not string.find(k.places .. ' ', at .. ' ', 1, true) then
      if k.links < 20 then k.places = k.places .. at end
      k.links = k.links + 1
      changed[name] = k
    end
    return k.index
  end

  -- A link that got an answer of this kind was answered by the API itself.
  function kinds.contradict(index)
    local name = indexed[index]
    if name and known[name].contradicted == '0' then
      known[name].contradicted = '1'
      changed[name] = known[name]
    end
  end

  function kinds.save()
    for name, k in pairs(changed) do
      redis.call('HSET', key, name, k.index .. ' ' .. k.links .. ' ' .. k.contradicted .. k.places)
    end
    return next(changed) ~= nil
  end
  return kinds
end
