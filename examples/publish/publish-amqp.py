#!/usr/bin/env python3
"""Publishes by way of RabbitMQ, with the package `pika` (pip install pika, or apt install python3-pika).

    publish-amqp.py CHANNEL MESSAGE [EVENT-TYPE]

ssecast needs an [amqp] table with the same server. AMQP_URL names it; AMQP_EXCHANGE is ssecast's amqp.exchange.
"""
import os
import sys
import uuid

import pika

EXCHANGE = os.environ.get("AMQP_EXCHANGE", "sse-cyclone-server")
URL = os.environ.get("AMQP_URL", "amqp://127.0.0.1:5672/%2F")


def publish(channel, message, event=None):
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    try:
        rabbit = connection.channel()
        # An error if the exchange does not exist. ssecast makes it when it starts.
        rabbit.exchange_declare(EXCHANGE, passive=True)
        # Wait until RabbitMQ has the message.
        rabbit.confirm_delivery()
        properties = pika.BasicProperties(
            # Distinguishes this message from one with the same content.
            message_id=str(uuid.uuid4()),
            # It survives a restart of RabbitMQ.
            delivery_mode=2,
            type=event,
        )
        rabbit.basic_publish(EXCHANGE, routing_key=channel, body=message.encode(), properties=properties)
    finally:
        connection.close()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("publish-amqp.py CHANNEL MESSAGE [EVENT-TYPE]")
    try:
        publish(*sys.argv[1:])
    except pika.exceptions.AMQPError as error:
        sys.exit(f"not published: {error!r}")
