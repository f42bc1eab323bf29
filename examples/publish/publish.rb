#!/usr/bin/env ruby
# frozen_string_literal: true

# Publishes on ssecast's admin socket:  publish.rb CHANNEL MESSAGE [EVENT-TYPE]
# Ruby's standard library is enough. In an application, copy the module; its user must be in the group ssecast.
require 'json'
require 'net/http'
require 'socket'
require 'timeout'

module Ssecast
  ADMIN = ENV.fetch('SSECAST_ADMIN', '/run/ssecast/admin.sock')

  # HTTP over a Unix socket.
  class UnixHTTP < Net::HTTP
    def connect
      @socket = Net::BufferedIO.new(UNIXSocket.new(ADMIN), read_timeout: 10, write_timeout: 10)
      on_connect
    end
  end

  # Returns ssecast's answer; raises where the message was not published.
  def self.publish(channel, message, event: nil)
    body = { channel: channel, message: message, event: event }.compact
    request = Net::HTTP::Post.new('/publish', 'Content-Type' => 'application/json', 'Host' => 'ssecast')
    request.body = JSON.generate(body)
    response = UnixHTTP.new('ssecast').start { |http| http.request(request) }
    raise "ssecast answered #{response.code}: #{response.body.strip}" unless response.code == '200'

    JSON.parse(response.body)
  end
end

if $PROGRAM_NAME == __FILE__
  abort 'publish.rb CHANNEL MESSAGE [EVENT-TYPE]' unless [2, 3].include?(ARGV.size)
  begin
    puts JSON.generate(Ssecast.publish(ARGV[0], ARGV[1], event: ARGV[2]))
  rescue SystemCallError, IOError, Timeout::Error, RuntimeError => e
    abort "not published: #{e.message}"
  end
end
