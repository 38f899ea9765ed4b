"""`symbiosis demo`: one base, three tenants that train and one that chats, each a process of its own."""
