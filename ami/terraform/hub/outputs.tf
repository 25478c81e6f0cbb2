output "address" {
  description = "The hub's public address, for the spokes."
  value       = module.instance[0].address
}

output "interface" {
  description = "Its interface: the target of further routes to the privnet."
  value       = module.instance[0].interface
}

output "role_arn" {
  description = "Its role, for the module `discovery` in other accounts."
  value       = module.instance[0].role_arn
}

output "group" {
  description = "Its Auto Scaling group."
  value       = module.instance[0].group
}

output "security_group_id" {
  description = "Its security group, for what else shall reach it (further peers by IPsec)."
  value       = aws_security_group.this.id
}

output "key_parameter" {
  description = "The SSM parameter with its private key, of which `wg pubkey` makes the public one."
  value       = var.hub_key_parameter
}

output "second" {
  description = "The second hub's address, interface, role, group and key parameter; without one null."
  value       = var.hubs < 2 ? null : merge(module.instance[1], { key_parameter = var.second_hub_key_parameter })
}
