-- The load's requests, where they are not all alike, and wrk's numbers as one JSON line behind "@@" (latencies in
-- microseconds). Arguments: nothing, "upload BYTES", "varied" or "paths PREFIX".

local made = 0

-- What browsers send; with the parts that change about 600 bytes.
local browser = table.concat({
  "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
  "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
  "Accept-Language: en-GB,en;q=0.9,de;q=0.7",
  "Accept-Encoding: gzip, deflate, br, zstd",
  "Cache-Control: no-cache",
  "Referer: http://web.example/catalog/spring?page=3",
  "Sec-Fetch-Dest: empty",
  "Sec-Fetch-Mode: cors",
  "Sec-Fetch-Site: same-origin",
}, "\r\n")

function init(args)
  local kind = args[1]
  if kind == "upload" then
    wrk.method = "POST"
    wrk.body = string.rep("x", tonumber(args[2]))
    local whole = wrk.format()
    request = function() return whole end
  elseif kind == "varied" then
    math.randomseed(os.time())
    local run = string.format("%08x", math.random(0, 0x7fffffff))
    local start = "GET " .. wrk.path .. " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n" .. browser ..
      "\r\nCookie: theme=dark; session=" .. run .. "-"
    local middle = "; seen=17\r\nX-Request-Id: " .. run .. "-"
    request = function()
      made = made + 1
      return start .. made .. middle .. made .. "\r\n\r\n"
    end
  elseif kind == "paths" then
    local finish = " HTTP/1.1\r\nHost: " .. wrk.headers["Host"] .. "\r\n\r\n"
    math.randomseed(os.time())
    local start = "GET " .. args[2] .. math.random(1000, 9999) .. "0"
    request = function()
      made = made + 1
      return start .. made .. finish
    end
  end
end

done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '@@{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%.1f,"p99_us":%.1f,"p999_us":%.1f,' ..
    '"socket_errors":%d,"status_errors":%d}\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
