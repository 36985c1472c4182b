# Arguments: base URL, then key, session and group of each call.
require 'net/http'
require 'uri'

base, *calls = ARGV
calls.each_slice(3) do |key, session, group|
  uri = URI("#{base}/#{session}/groups/#{group}/picture")
  request = Net::HTTP::Delete.new(uri.request_uri)
  request['Authorization'] = "Bearer #{key}"
  response = Net::HTTP.new(uri.host, uri.port).request(request)
  puts "#{response.code} #{response.body}"
end
